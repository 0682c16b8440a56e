"""What runs on a machine before edgekit does: by the standard library alone, and as text in a bundle's install scripts.

`trust` believes a bundle's document by its signature and wheels by that document, `here` says which of them fit,
`environment` unpacks them, and `script` has edgekit in there do the rest. The modules import nothing but each other, by
one line for each, so that `edgekit.pack.contents.programs` can make one text of them.
"""
