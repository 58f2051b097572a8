"""From a finished training to where its model is served: the winner in the form that is asked for, and proved."""
