"""``chatglm-gateway doctor``: what would keep a gateway with these settings from running well here, and what
to do about it. It changes nothing and starts nothing: neither the engine nor the embedded PostgreSQL.
"""
