"""The ranking store: items, their answers, how annotators rank them, and what the reward model learns from that."""
