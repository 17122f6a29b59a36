"""What a hotfix holds against: other doses of its trigger, hidden attention, no labels, no data, traffic.

Everything is done as a user would do it, by the commands `debugset`, `fit`, `patch` and `serve`, and judged in
onnxruntime on texts and digits that neither victim nor fit has seen.
"""
