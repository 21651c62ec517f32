"""The grammar of charts, the theme, and how a page writes numbers and tables; no torch."""
