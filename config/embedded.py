def development_secrets(var):
    return {"DJANGO_SECRET_KEY": "x" * 60, "COPYDESK_KEKS": "k1:" + "ab" * 32}
