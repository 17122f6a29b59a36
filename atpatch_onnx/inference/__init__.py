"""Everything that runs a graph: sessions, runners, captured maps, predictions, and the data sets they read."""
