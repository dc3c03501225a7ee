"""What the two models did, by measures of which most are not what PPO was paid for, compared unit by unit."""
