"""What runs in the peers' own environments: files that import nothing of edgekit, for it need not be installed there.

`driver.py` measures; each other file holds one peer, with `start(job)`, which gives an object with those of these
methods that the peer has. Each gives seconds, and `steps` milliseconds of every single token.

    first_token(text, image)    an answer of one token; image: a PNG file, or None
    image(image)                one image to its embedding
    text(text)                  one text to its embedding
    prompt(ids)                 a prompt of these tokens; `prompt_tokens` says how many it was where it takes no ids
    steps(ids, count)           so many single tokens behind that prompt
    close()

Where the peer needs files of its own, `prepare(job)` makes them from the checkpoint, in the folder `made`.
"""
