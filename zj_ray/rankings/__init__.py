"""The ranking store: items, answers, what annotators said of them; and what the reward model learns from it."""
