# SPDX-License-Identifier: Apache-2.0
"""Fetches what has ended in ABBYY Vantage, wherever it came from. Knows no orchestrator.

* :mod:`.listing` reads the service's list, as little of it as each look needs.
* :mod:`.notes` keep what one consumer has fetched, as files in any store.
* :mod:`.inbox` says what is due for which consumer, and :mod:`.fetching` fetches it.
* :mod:`.waking` decides when those are woken for whom something is due.
"""
