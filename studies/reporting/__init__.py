"""What people look at: the report, figures, tables, progress."""
