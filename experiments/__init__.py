"""Reproductions of published figures and tables: one module per experiment."""
