"""Parts of an evaluation: what is asked, what is ranked beside the model, what is reported."""
