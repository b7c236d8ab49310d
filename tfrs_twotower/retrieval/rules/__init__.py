"""The rules of a request: which candidates are eligible, and how time and variety reorder them.

They apply one after the other:

1. a candidate is eligible if it is not excluded, is on the allow-list (where there is one), has
   one of the wanted and none of the unwanted values of each filtered attribute, has each bounded
   number within its bounds, and is available at the moment of the request (where both are known);
2. with a half-life h, the score s of a candidate of age a becomes (1 + s) * 2 ** (-a / h) - 1: its
   distance to the lowest cosine halves every h seconds;
3. candidates below the minimum score are dropped;
4. the rest are ordered by score, equal ones by id;
5. of each category only the first `max_per_category` stay; candidates without one all stay;
6. with `mmr_lambda` below 1, maximal marginal relevance (Carbonell & Goldstein 1998) chooses among
   the first 10 k of them (at most 1,000, at least k): again and again the one with the largest
   lambda * score - (1 - lambda) * (largest cosine with a candidate already chosen).

Their modules:

    request        the rules of a batch of queries, as the other modules read them
    reading        the inputs of a signature -> a request
    filter_lists   the candidates that filters and bounds leave, as lists
    eligibility    rule 1
    plan           where candidates are sought: in a list, in near leaves or in a pool of some size
    ranking        rules 2 to 5, of a pool of scored candidates
    variety        rule 6

`retrieval.retriever` finds the pools.
"""
