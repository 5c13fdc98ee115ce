"""Language models: what they are asked, what they answer, and what is done when that is not what was asked for."""
