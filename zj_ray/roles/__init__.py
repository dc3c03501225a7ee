"""The four PPO roles as Ray actors: policy, critic, reward and reference, each a group of DeepSpeed ranks."""
