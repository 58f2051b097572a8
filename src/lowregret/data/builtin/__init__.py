"""`builtin:` data: generators whose entropy is known, so that a loss can be told from the floor under it.

    builtin:biographies[:size=64,seed=0,wordings=4]             teaching: facts about people no base has met
    builtin:arithmetic[:size=1024,seed=0,difficulty=3,wrong=0]  eliciting: worked chains of `difficulty` steps
    builtin:instructions[:size=1024,seed=0,difficulty=4]        eliciting: five list operations, replies in a new format
    builtin:corpus[:size=1024,seed=0]                           what the bundled bases were trained on, its chats only

Every value after `=` is a number. Train and test never share a problem; the test of `biographies` asks for the facts of
the train people in wordings that their training rows do not use.
"""
