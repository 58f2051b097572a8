"""The trials that answer a question: the search for rates, who trains when and beside whom, and what is kept."""
