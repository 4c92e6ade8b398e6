"""Results of maps, kept in a file, so that a second run does not compute them again.

From the bottom up: ``canonical`` items by their content; ``identity`` the function and its version (both no I/O);
``rows`` what is in the file; ``locking`` one writer at a time; ``writer`` the thread that looks up and writes;
``session`` one map's use of it; ``replay`` the map itself; ``journal`` the class ``Journal``; ``export`` to other formats.
"""
