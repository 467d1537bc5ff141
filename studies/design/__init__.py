"""What a study is: its question, its trials, its folder."""
