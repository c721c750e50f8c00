"""The archive: a fleet's whole history in an object store, and the way back from it.

==============  ==============================================================================================
module          answers
==============  ==============================================================================================
``names``       what the objects are called
``envelope``    how a manifest or a side table is sealed
``manifest``    what a commit point says
``side``        what is kept beside the feed: roster, tokens, replicas, conflicts, dead letters
``batches``     how feed rows become segments
``snapshots``   how all records become a baseline, and back
``putter``      how an object gets into the store for certain
``writer``      ``Archive``: when all of this happens, and in which order
``state``       what the store remembers of it
``anchor``      what the key holder remembers of it
``reader``      how an object is verified
``chain``       which objects make up the past
``restore``     how they become a store again; ``rebuild`` how quickly, ``restore_file`` under which name
``verify``      whether all of them are whole; ``errors`` what is said if not
==============  ==============================================================================================

Objects are immutable, manifests are the commit points, and restore needs the bucket and the keys, nothing else
(docs/FORMAT.md, "Archive").
"""
