"""The rollout fleet: vLLM engines that come and go, and the consultations they hold."""
