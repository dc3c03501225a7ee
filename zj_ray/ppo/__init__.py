"""The PPO loop: what a step does, which consultations run ahead of it, what it keeps and writes down."""
