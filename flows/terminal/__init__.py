"""What the commands print: results on standard output, progress and errors on standard error."""

from flows.terminal.candidates import candidates_table, winner_line
from flows.terminal.console import print_error, print_json, print_line, print_paragraph, print_warning
from flows.terminal.estimates import show_estimate, show_measured, show_score_estimate
from flows.terminal.groups import show_group_scores, show_groups, show_groups_summary
from flows.terminal.listeners import progress_bar, progress_listener
from flows.terminal.results import show_difference, show_names, show_result, show_stores, show_summary
from flows.terminal.scores import show_score

__all__ = [
    "candidates_table",
    "print_error",
    "print_json",
    "print_line",
    "print_paragraph",
    "print_warning",
    "progress_bar",
    "progress_listener",
    "show_difference",
    "show_estimate",
    "show_group_scores",
    "show_groups",
    "show_groups_summary",
    "show_measured",
    "show_names",
    "show_result",
    "show_score",
    "show_score_estimate",
    "show_stores",
    "show_summary",
    "winner_line",
]
