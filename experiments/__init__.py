"""Published figures and tables, reproduced: one file each."""
