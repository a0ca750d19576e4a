from typing import Any
def freeway(env,seed): return lambda o:1
breakout=pong=freeway
