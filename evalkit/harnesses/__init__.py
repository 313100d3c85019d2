"""Other people's harnesses behind evalkit's contract: lm-eval, inspect, NVIDIA's wheels, any command."""
