"""A page on which people look at a recommender: `twotower explore`.

    explored_version   a version of a models folder in memory, and what answers for it
    text_search        finds ids and titles by words
    controls           what of a query can be turned: profile, context, rules
    answers            recommendations and why; what moves between two answers
    candidates         a candidate: its neighbours, its popularity, the users that get it
    explored, session  what all sessions share, and what one person has chosen
    rows               what a list shows of a candidate
    page, *_view       all of it in a browser, with Panel; `widgets`, `styles`, `server`

Up to `rows` nothing needs Panel: functions from a version and what was chosen to plain values.
"""
