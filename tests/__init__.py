"""Tests; the modules beside this file help several of them."""
