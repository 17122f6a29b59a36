"""A row of a decision log."""

from atpatch_onnx.decisions import SwitchRow

ROW = SwitchRow(
    unix=1.8e9, experiment="e", revision=1, salt="0" * 16, mode="shadow", weight=0.0, on=True, source="file"
)
