"""Colours: few, quiet, and each with one meaning."""

from textual.theme import Theme

CORTEX = Theme(
    name="cortex",
    primary="#6cb6e0",
    secondary="#4d87ad",
    accent="#b9a0e8",
    success="#7cc48d",
    warning="#ddb35f",
    error="#e0706e",
    foreground="#c8d0d8",
    background="#0f1317",
    surface="#151a20",
    panel="#1e252d",
    dark=True,
    variables={
        "text-muted": "#76828f",
        "input-cursor-text-style": "reverse",
        "input-selection-background": "#6cb6e0 35%",
    },
)
