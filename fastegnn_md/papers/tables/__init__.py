"""Tables of the papers, trained and measured again."""
