"""What a turn of the doctor is paid: rules on its text, the reward model, and how both are mixed."""
