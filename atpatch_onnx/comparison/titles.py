"""What figures are called in tables; `FIGURES` says what they mean."""

from __future__ import annotations

from .fairness import NAMES

__all__ = ["TITLES"]

TITLES = {
    "accuracy": "accuracy",
    "asr": "attack success (ASR)",
    "asr_star": "ASR*",
    "recovered": "triggered rows right",
    "uf": "unfair rows (UF)",
    "clean_flagged": "clean rows flagged",
    "triggered_flagged": "triggered rows flagged",
    "flips_flagged": "flip rows flagged",
    "clean_alarms": "clean rows with an alarm",
    "triggered_alarms": "triggered rows with an alarm",
    "flips_alarms": "flip rows with an alarm",
    "accuracy_with_refusal": "accuracy if alarms are refused",
    "asr_with_refusal": "ASR if alarms are refused",
    "asr_star_with_refusal": "ASR* if alarms are refused",
    **NAMES,
    "answer_right": "answers right",
    "answer_kept": "answers as before",
    "answer_as_twin": "attacked answers as without the trigger",
    "perplexity": "perplexity of clean answers",
    "triggered_perplexity": "the same, attacked",
    "neighbor_kept": "nearest neighbors as before",
    "cosine_median": "cosine with the original, clean rows, median",
    "cosine_low": "the same, 5 % quantile",
    "twin_cosine_median": "cosine with the clean twin, triggered rows, median",
    "twin_cosine_low": "the same, 5 % quantile",
    "tokens_kept": "tokens with the same label, clean rows",
    "twin_tokens_kept": "tokens with the label as in the clean twin, triggered rows",
    "roc_auc": "area under the ROC curve (AUC)",
    "rank_correlation": "rank correlation with the original's scores, clean rows",
    "passed": "clean rows that the trigger lifts a row past",
}
