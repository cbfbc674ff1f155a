# SPDX-License-Identifier: Apache-2.0
"""Fetches transactions that ended in ABBYY Vantage, whatever their origin. Knows no orchestrator.

* :mod:`.listing` reads the service's list, only as much as each poll needs.
* :mod:`.notes` records what one consumer has fetched, as files in any store.
* :mod:`.inbox` determines what is due for which consumer, and :mod:`.fetching` fetches it.
* :mod:`.waking` decides when to wake consumers for which something is due.
"""
