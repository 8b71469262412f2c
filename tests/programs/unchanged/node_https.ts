import fs from "node:fs";
import https from "node:https";
import process from "node:process";

const options = {
  key: fs.readFileSync(process.env.KEY ?? "key.pem"),
  cert: fs.readFileSync(process.env.CERT ?? "cert.pem"),
};

https.createServer(options, (req, res) => {
  setTimeout(() => {
    res.writeHead(200, { "Content-Type": "text/plain" });
    res.end(`hello from process ${process.pid}\n`);
  }, req.url === "/slow" ? 200 : 0);
}).listen(Number(process.env.PORT ?? 8443));
