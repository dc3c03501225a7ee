"""How Chinese turns of doctors and patients are read, for the clinic, the patients and the rules alike."""
