"""Graphs by another author, who wrote them without a look at the rules, at their corpus, or at what they find."""
