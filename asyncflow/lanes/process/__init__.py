"""The process lane: workers of our own, what they are told, and what they tell."""
