"""The demo: the victim that comes with the package, its patch and its page."""
