"""From trained towers to what is served: models folders, versions, indexes, rules."""
