"""The peers' work (../shared/peers) as a pipeline of its own on tickloom's transport and delivery.

Also an example of such a pipeline: ``codec.py`` reads and writes its records, ``work.py`` is its pure task, ``app.py``
its Faust application. ``measure.py`` runs it beside the peers with the peers' own programs.
"""
