"""Scripts for the Pythons of harnesses. They import nothing of evalkit, and evalkit imports none of them."""
