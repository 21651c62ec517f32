def judged(here, matches, saes):
    import polars as pl

    return {"shared": pl.DataFrame({"words": ["none yet"]})}
