"""What is broken here for real: gateways, their PostgreSQL, the way to it, and disks.

A gateway with the simulated engine answers under load while something around it breaks. Afterwards what
the clients saw is compared with the rows (``accounts.py``). The short form runs with all other tests;
``make test-faults`` runs the long one (``FAULTS=long``) and prints its figures.
"""
