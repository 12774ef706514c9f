"""The process beside the server: it owns the server, and ends it when nobody needs it any more.

Two processes, because either may be killed: the *watcher* starts the *keeper* and waits for it;
the keeper starts the server, says when it is ready, and stops it. If the keeper dies, the kernel
kills the server and hands what is left of its tree to the watcher, which ends that. If the watcher
dies, the keeper goes on. Of the rest of this package only `process` and `logs` are imported here.
"""
