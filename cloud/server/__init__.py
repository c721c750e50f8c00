"""The control plane on the network: HTTP, authentication of requests, background jobs, start and orderly stop.

Nothing else in ``cloud`` knows HTTP, threads or signals. ``app`` answers requests, ``polls`` lets long polls wait,
``jobs`` runs what happens in the background, ``serve`` starts and stops all of it.
"""
