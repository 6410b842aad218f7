c.ServerApp.ip = 1
