"""Fit on live requests: the first requests of a server, or the inputs in its log, are the clean rows.

`collector` decides which rows are taken, `joining` makes one data set of them, `fit` fits a hotfix, and `log` reads the
rows from a decision log.
"""
