"""A fleet that is steered: operators with offline keys publish policies and models, roll them out and take them back,
a server now and then hands out what it should not, and devices verify and activate all of it on simulated disks.

It is a part of the fleet simulator (``simulations.fleet``), in the scenarios ``policies`` and ``models``.
"""
