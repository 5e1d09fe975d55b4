"""Who is calling and what they may do: users, sign-in, sessions, API keys, roles, audit.

A caller that cannot be identified is refused with 401, one that may not do this with 403, and one that asks
for another's thing with 404. Nothing in here is told apart for a stranger: which users exist is not shown.
"""
