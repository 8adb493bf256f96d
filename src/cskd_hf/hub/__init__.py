"""What goes to the Hub: checkpoints with their cards, rated sets, and a Space."""
