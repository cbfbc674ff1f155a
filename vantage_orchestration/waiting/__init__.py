# SPDX-License-Identifier: Apache-2.0
"""Waits for transactions until they end, need a person, or reach a limit. Knows no orchestrator.

* :class:`.machine.Wait` is the state machine. It decides what to do next and performs no I/O.
* :class:`.watcher.Watcher` polls any number of transactions with as few requests as possible.
* :func:`.blocking.wait_here` waits in a worker and blocks. :func:`.poller.wait_in_loop` waits in a
  coroutine; all coroutines of an event loop share the rounds of one :class:`.poller.SharedPoller`.
"""
