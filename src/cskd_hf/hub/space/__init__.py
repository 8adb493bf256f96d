"""The app that scores uploaded photographs: run on this machine, or as a Space of the Hub.

What it reads, scores and shows are plain functions (`uploads`, `scoring`, `page`); only `app` needs gradio.
"""
